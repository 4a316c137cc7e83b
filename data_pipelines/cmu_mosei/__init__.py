"""CMU-MOSEI and CMU-MOSI: sentiment of spoken opinions, from -3 to 3."""
