"""Item vectors into Milvus, checked before they go live."""
