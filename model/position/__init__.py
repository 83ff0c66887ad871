"""Position methods of rotary layers: each one small pure function from frequencies to frequencies."""
