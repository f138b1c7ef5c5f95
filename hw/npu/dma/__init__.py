"""DMA engine of the `npu` engine: transfers between main memory and the buffers."""
