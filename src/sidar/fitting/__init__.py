"""What every training shares, a language model's and a tokenizer's: checkpoints, logs, the
schedule. No model here.
"""
