"""What leaves for other tools and for the line: training sets as files, models as ONNX."""
