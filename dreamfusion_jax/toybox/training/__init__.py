"""What the trainings of the embedded prior share."""
