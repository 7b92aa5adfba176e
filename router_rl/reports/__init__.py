"""Reports: functions of the results of a comparison."""
