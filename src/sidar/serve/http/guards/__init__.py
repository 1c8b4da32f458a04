"""What a client may cost: bodies and connections beyond it are cut."""
