"""Files and servers that may come from anyone: what they ask of a reader is checked before they are used."""
