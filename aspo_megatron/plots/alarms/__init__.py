"""The alarms of the runs in a picture: marks in their panels, and lists."""
