"""A graph as people read it: `report` in words, `drawing` as a picture. `parameters` says what each node is."""
