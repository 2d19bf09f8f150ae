package regf

// New is a hive of a root key alone, with an empty security descriptor.
func New() []byte {
	b := make([]byte, 2*base)
	copy(b, "regf")
	le.PutUint32(b[4:], 1)
	le.PutUint32(b[8:], 1)
	le.PutUint32(b[20:], 1)
	le.PutUint32(b[24:], 5)
	le.PutUint32(b[32:], 1)
	le.PutUint32(b[36:], 32)
	le.PutUint32(b[40:], 4096)
	le.PutUint32(b[44:], 1)
	le.PutUint32(b[508:], sum(b))
	p := b[base:]
	copy(p, "hbin")
	le.PutUint32(p[8:], 4096)
	cell := func(at, n int) []byte {
		le.PutUint32(p[at:], uint32(-n))
		return p[at+4:]
	}
	k := cell(32, 88)
	copy(k, "nk")
	le.PutUint16(k[2:], 0x2c)
	le.PutUint32(k[16:], none)
	for _, at := range []int{28, 32, 40, 48} {
		le.PutUint32(k[at:], none)
	}
	le.PutUint32(k[44:], 120)
	le.PutUint16(k[72:], 4)
	copy(k[76:], "ROOT")
	s := cell(120, 48)
	copy(s, "sk")
	le.PutUint32(s[4:], 120)
	le.PutUint32(s[8:], 120)
	le.PutUint32(s[12:], 1)
	le.PutUint32(s[16:], 20)
	s[20], s[22], s[23] = 1, 4, 0x80
	le.PutUint32(p[168:], 4096-168)
	return b
}
