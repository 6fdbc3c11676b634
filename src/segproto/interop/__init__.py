"""Published files in, other runtimes out; nothing here is on the path of loading a saved model."""
