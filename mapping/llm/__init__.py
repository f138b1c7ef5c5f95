"""Language models in numpy: load a folder, generate text, delegate decode attention."""
