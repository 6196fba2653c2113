"""The operators on the CPU; importing it registers them with torch."""
