package dbfile

func runTestChild() {}
