package prismsim

import "net/http"

// v3 answers a request to the v3 API.
func (s *Sim) v3(*http.Request) answer { return answer{status: http.StatusNotFound} }
