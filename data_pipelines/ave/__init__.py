"""AVE: 28 events in videos of ten seconds, with their start and end."""
