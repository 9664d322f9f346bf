"""The devices of this host that can hold a model, behind one port: NVML, the CPU, or a scripted file."""
