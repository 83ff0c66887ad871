"""Files as people have them: streams of bytes, records, documents."""
