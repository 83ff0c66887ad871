"""Token files on disk: Megatron's format, their manifest, their checksums."""
