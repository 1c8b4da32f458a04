"""What the views of the page ask beside searching."""
