"""The rows of a table, the served answer among them, and the stages that fit them."""
