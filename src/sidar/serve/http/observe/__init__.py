"""What operators see: counters, and spans of requests."""
