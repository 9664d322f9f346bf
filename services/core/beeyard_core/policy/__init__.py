"""What a scheduling policy sees and may decide, and the platform policy as a value: no Lua, no clock, no chance."""
