"""What several services need to know of model files: the facts in a GGUF header, and models that come as packages."""
