"""Planning of batches: order of documents, mix of sources, packing into rows."""
