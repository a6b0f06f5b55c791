"""What two or more tools need, once. A tool imports the kit and the core, never another tool."""
