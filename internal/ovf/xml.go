package ovf

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// tokens reads XML within bounds and gives OVF 0.9, which older VirtualBox and
// VMware products wrote, the element names of OVF 1.0: there a section is
// <Section xsi:type="ovf:DiskSection_Type"> and a machine
// <Content xsi:type="ovf:VirtualSystem_Type">.
type tokens struct {
	raw   *xml.Decoder
	open  []xml.Name // the names given to the open elements, innermost last
	count int
}

// Token implements xml.TokenReader. It yields raw tokens, whose name spaces the
// decoder above it resolves.
func (t *tokens) Token() (xml.Token, error) {
	tok, err := t.raw.RawToken()
	if err != nil {
		return tok, err
	}
	switch e := tok.(type) {
	case xml.StartElement:
		if t.count++; t.count > maxElements {
			return nil, fmt.Errorf("more than %d elements: %w", maxElements, ErrLimit)
		}
		if len(t.open) >= maxDepth {
			return nil, fmt.Errorf("elements nest deeper than %d: %w", maxDepth, ErrLimit)
		}
		if e.Name.Local == "Section" || e.Name.Local == "Content" {
			for _, a := range e.Attr {
				if name, ok := strings.CutSuffix(a.Value, "_Type"); ok && a.Name.Local == "type" {
					e.Name.Local = name[strings.LastIndexByte(name, ':')+1:]
				}
			}
		}
		t.open = append(t.open, e.Name)
		return e, nil
	case xml.EndElement:
		if n := len(t.open); n > 0 {
			if was := t.open[n-1]; e.Name.Local == "Section" || e.Name.Local == "Content" {
				e.Name.Local = was.Local
			}
			t.open = t.open[:n-1]
		}
		return e, nil
	}
	return tok, nil
}

// decode reads one XML document into v, within the package's bounds.
func decode(r io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(r, MaxDescriptor+1))
	switch {
	case err != nil:
		return err
	case len(b) > MaxDescriptor:
		return fmt.Errorf("longer than %d bytes: %w", MaxDescriptor, ErrLimit)
	}
	raw := xml.NewDecoder(bytes.NewReader(b))
	raw.CharsetReader = charset
	dec := xml.NewTokenDecoder(&tokens{raw: raw})
	err = dec.Decode(v)
	var syntax *xml.SyntaxError
	var mismatch xml.UnmarshalError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax), errors.As(err, &mismatch), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return err
}

// charset reads the encodings besides UTF-8 in which descriptors were seen.
func charset(name string, in io.Reader) (io.Reader, error) {
	switch strings.ToLower(name) {
	case "us-ascii", "ascii":
		return in, nil
	case "iso-8859-1", "latin1", "windows-1252":
		b, err := io.ReadAll(in)
		if err != nil {
			return nil, err
		}
		s := make([]rune, len(b))
		for i, c := range b {
			s[i] = rune(c)
		}
		return strings.NewReader(string(s)), nil
	}
	return nil, fmt.Errorf("the text encoding %.40q is not read: %w", name, ErrFormat)
}

// The read form. Names are matched without their name space, because versions
// and products differ in it alone.
type (
	inEnvelope struct {
		XMLName xml.Name
		Files   []inFile       `xml:"References>File"`
		Disks   []inDisk       `xml:"DiskSection>Disk"`
		Configs []inDeployment `xml:"DeploymentOptionSection>Configuration"`
		System  []inSystem     `xml:"VirtualSystem"`
		Nested  []inCollection `xml:"VirtualSystemCollection"`
	}
	inCollection struct {
		System []inSystem     `xml:"VirtualSystem"`
		Nested []inCollection `xml:"VirtualSystemCollection"`
	}
	inFile struct {
		ID          string `xml:"id,attr"`
		Href        string `xml:"href,attr"`
		Size        string `xml:"size,attr"`
		Compression string `xml:"compression,attr"`
		ChunkSize   string `xml:"chunkSize,attr"`
	}
	inDisk struct {
		ID        string `xml:"diskId,attr"`
		File      string `xml:"fileRef,attr"`
		Capacity  string `xml:"capacity,attr"`
		Units     string `xml:"capacityAllocationUnits,attr"`
		Format    string `xml:"format,attr"`
		Populated string `xml:"populatedSize,attr"`
		Parent    string `xml:"parentRef,attr"`
	}
	inDeployment struct {
		ID      string `xml:"id,attr"`
		Default string `xml:"default,attr"`
	}
	inSystem struct {
		ID         string       `xml:"id,attr"`
		Name       string       `xml:"Name"`
		Annotation string       `xml:"AnnotationSection>Annotation"`
		OS         *inOS        `xml:"OperatingSystemSection"`
		Products   []inProduct  `xml:"ProductSection"`
		Hardware   []inHardware `xml:"VirtualHardwareSection"`
		VBox       *inVBox      `xml:"Machine"`
	}
	inProduct struct {
		Product     string       `xml:"Product"`
		Vendor      string       `xml:"Vendor"`
		Version     string       `xml:"Version"`
		FullVersion string       `xml:"FullVersion"`
		Properties  []inProperty `xml:"Property"`
	}
	inProperty struct {
		Key   string `xml:"key,attr"`
		Value string `xml:"value,attr"`
	}
	inOS struct {
		ID          string `xml:"id,attr"`
		OSType      string `xml:"osType,attr"`
		VBox        string `xml:"OSType"`
		Description string `xml:"Description"`
	}
	inHardware struct {
		Family  string     `xml:"System>VirtualSystemType"`
		Items   []inItem   `xml:"Item"`
		Storage []inItem   `xml:"StorageItem"`      // OVF 2.x
		Ports   []inItem   `xml:"EthernetPortItem"` // OVF 2.x
		Config  []inConfig `xml:"Config"`
		Extra   []inConfig `xml:"ExtraConfig"`
	}
	inItem struct {
		Configuration string   `xml:"configuration,attr"`
		Bound         string   `xml:"bound,attr"`
		Address       string   `xml:"Address"`
		OnParent      string   `xml:"AddressOnParent"`
		Units         string   `xml:"AllocationUnits"`
		Automatic     string   `xml:"AutomaticAllocation"`
		Caption       string   `xml:"Caption"`
		Connection    []string `xml:"Connection"`
		Name          string   `xml:"ElementName"`
		Host          []string `xml:"HostResource"`
		Instance      string   `xml:"InstanceID"`
		Instance09    string   `xml:"InstanceId"`
		Parent        string   `xml:"Parent"`
		Subtype       string   `xml:"ResourceSubType"`
		Type          string   `xml:"ResourceType"`
		Quantity      string   `xml:"VirtualQuantity"`
		QuantityUnits string   `xml:"VirtualQuantityUnits"`
		Cores         string   `xml:"CoresPerSocket"`
	}
	inConfig struct {
		Key   string `xml:"key,attr"`
		Value string `xml:"value,attr"`
	}
	// inVBox is VirtualBox's own description of the machine.
	inVBox struct {
		UUID     string `xml:"uuid,attr"`
		Hardware *struct {
			Firmware *struct {
				Type string `xml:"type,attr"`
			} `xml:"Firmware"`
			TPM *struct {
				Type string `xml:"type,attr"`
			} `xml:"TrustedPlatformModule"`
		} `xml:"Hardware"`
	}
)
