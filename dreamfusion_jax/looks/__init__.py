"""What people see of a scene: pictures, contact sheets and videos."""
