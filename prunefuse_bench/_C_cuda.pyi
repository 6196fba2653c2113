"""The CUDA kernels of the operators; importing it registers them with torch."""
