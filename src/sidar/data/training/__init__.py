"""From requests to training rows: splits, examples, lists, priors."""
