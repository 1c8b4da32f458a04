"""Training on rollouts: groups of answers that the model writes itself, and what they are worth."""
