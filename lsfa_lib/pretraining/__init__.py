"""A small Point-MAE of our own: procedural shapes, masked pretraining, and its evaluation."""
