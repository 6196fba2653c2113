"""Selection methods, one module each; every module here is found and registered by itself."""
