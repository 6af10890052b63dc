"""A study file becomes runs, runs side by side become tables, tables become an answer."""
