"""What one does with a finished model."""
