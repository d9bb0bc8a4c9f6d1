# An app that knows nothing of being stopped, for puma.
require 'rack'

class Ticks
  def initialize(seconds)
    @seconds = seconds
  end

  def each
    finish = Process.clock_gettime(Process::CLOCK_MONOTONIC) + @seconds
    while (left = finish - Process.clock_gettime(Process::CLOCK_MONOTONIC)) > 0
      yield "more\n"
      sleep [0.2, left].min
    end
    yield "end\n"
  end
end

run lambda { |env|
  seconds = (env['QUERY_STRING'][/ms=(\d+)/, 1] || 0).to_i / 1000.0
  plain = { 'content-type' => 'text/plain' }
  case env['PATH_INFO']
  when '/stream'
    [200, plain, Ticks.new(seconds)]
  when '/upload'
    [200, plain, ["taken #{env['rack.input'].read.bytesize}\n"]]
  else
    sleep seconds
    [200, plain, ["done\n"]]
  end
}
