"""Runtime native: containers made by Sampan itself."""
