"""What a model learns from: material, patches, batches and training stores."""
