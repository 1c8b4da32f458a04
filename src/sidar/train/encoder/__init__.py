"""Fine-tuning of the sentence encoder: the dense baseline and SCI's two towers."""
