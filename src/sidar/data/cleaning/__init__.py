"""From what sources write to what the contract says, and what is told of the rest."""
