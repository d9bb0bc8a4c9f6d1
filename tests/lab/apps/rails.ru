# A Rails app that knows nothing of being stopped.
require 'action_controller/railtie'

class App < Rails::Application
  config.root = Dir.pwd
  config.eager_load = true
  config.secret_key_base = 'none'
  config.logger = Logger.new(nil)
  config.public_file_server.enabled = false
  routes.append do
    match 'work', to: 'lab#work', via: :get
    match 'healthz', to: 'lab#work', via: :get
    match 'stream', to: 'lab#stream', via: :get
    match 'upload', to: 'lab#upload', via: :post
  end
end

class LabController < ActionController::Base
  def work
    sleep seconds
    render plain: "done\n"
  end

  def upload
    render plain: "taken #{request.body.read.bytesize}\n"
  end

  def stream
    length = seconds
    self.content_type = 'text/plain'
    # Without it, Rack::ETag holds the answer back until it is complete.
    headers['Last-Modified'] = Time.now.httpdate
    self.response_body = Enumerator.new do |parts|
      finish = now + length
      while (left = finish - now) > 0
        parts << "more\n"
        sleep [0.2, left].min
      end
      parts << "end\n"
    end
  end

  private

  def seconds
    params[:ms].to_i / 1000.0
  end

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end

App.initialize!
run App
