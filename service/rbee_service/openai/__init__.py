"""The OpenAI API: what its clients may ask for, and the shapes that they read."""
