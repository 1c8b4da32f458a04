"""The forward passes of decoding: beams that share a prompt, lean or through any backbone."""
