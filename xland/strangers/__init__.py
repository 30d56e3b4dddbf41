"""Files and servers of strangers: what they may ask of a reader is checked before they are used."""
