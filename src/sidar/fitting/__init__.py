"""What all trainings share: the loop, checkpoints, logs, pictures and the schedule; no model."""
