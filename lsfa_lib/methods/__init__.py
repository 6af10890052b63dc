"""Other methods beside ours: each a file with `METHODS`, all behind one `fit` and one `predict`."""
