package local

import "encoding/binary"

func littleEndian() bool { return binary.NativeEndian.Uint16([]byte{1, 0}) == 1 }
