package disk

// Limits that a header is held to before anything is allocated or followed.
// They bound memory and time for hostile images; honest ones stay far below.
const (
	// MaxSize is the largest virtual disk read: 64 TiB, VHDX's own limit
	// ([MS-VHDX] 2.6.2.2) and above every target's.
	MaxSize = 64 << 40
	// MaxChain is the largest number of files in a backing chain.
	MaxChain = 64
	// MaxTable bounds one in-memory table of a format (an L1 table, a grain
	// directory, a BAT): 64 MiB. Larger tables are read in pieces or refused.
	MaxTable = 64 << 20
)
