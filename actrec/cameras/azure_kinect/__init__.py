"""Azure Kinect and Orbbec Femto cameras, through the Azure Kinect SDK."""
