"""What `sim.monitor` measures at a step, one measurement a file, and the state it gives back."""
