"""What is put on one model."""
