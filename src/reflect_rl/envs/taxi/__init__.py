"""DangerousTaxi."""
