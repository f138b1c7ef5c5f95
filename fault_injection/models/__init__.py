"""What a particle or a defect does, as actions: one fault model per file."""
